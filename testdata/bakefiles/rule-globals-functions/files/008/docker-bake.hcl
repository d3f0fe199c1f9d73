group {}
