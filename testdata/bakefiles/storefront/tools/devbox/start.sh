#!/bin/sh
# start: runs the services side by side until one of them ends.
set -eu
trap 'kill 0' EXIT
LISTEN=:8001 /shop/catalog &
LISTEN=:8002 /shop/cart &
LISTEN=:8003 /shop/search &
ROUTES="/products=localhost:8001 /carts=localhost:8002 /search=localhost:8003" LISTEN=:8000 /shop/gateway &
httpd -f -p 8080 -h /shop/site
