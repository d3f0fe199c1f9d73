#!/bin/sh
# render SITE LAYOUT TEXT OUT: makes a page of every text. The first line of a text is
# the title, an empty line starts a paragraph, and "> page words" is a link.
set -eu
site=$1 layout=$2 text=$3 out=$4

body() {
  awk '
    NR == 1      { print "<h1>" $0 "</h1>"; next }
    /^$/         { if (open) print "</p>"; open = 0; next }
    !open        { print "<p>"; open = 1 }
    /^> /        { page = $2; sub(/^> [^ ]+ /, ""); print "<a href=\"" page ".html\">" $0 "</a>"; next }
                 { print }
    END          { if (open) print "</p>" }
  ' "$1"
}

for f in "$text"/*.txt; do
  page=$(basename "$f" .txt)
  body "$f" >"/tmp/$page.body"
  sed -e "s|@TITLE@|$(head -n 1 "$f")|" -e "s|@SITE@|$site|" \
    -e "/@BODY@/{r /tmp/$page.body" -e 'd;}' "$layout" >"$out/$page.html"
  rm "/tmp/$page.body"
done
