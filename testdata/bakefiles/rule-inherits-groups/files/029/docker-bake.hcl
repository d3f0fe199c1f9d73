target "a" { cache-from=["A","A","B","C"] }
