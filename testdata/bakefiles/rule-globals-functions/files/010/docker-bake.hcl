target "" {}
