target "a" { dockerfile="../x/../y" }
