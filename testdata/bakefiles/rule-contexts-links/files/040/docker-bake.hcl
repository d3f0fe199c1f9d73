target "a" { dockerfile="git@x:y?ref=a" }
