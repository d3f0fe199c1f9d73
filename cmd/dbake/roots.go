package main

// Where a machine has no certificates of authorities, as in the image of dbake itself,
// those of Mozilla are trusted.
import _ "golang.org/x/crypto/x509roots/fallback"
