target "a" { dockerfile="cwd://x/../y" }
