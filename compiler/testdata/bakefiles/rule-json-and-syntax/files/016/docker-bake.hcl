target "default" 
