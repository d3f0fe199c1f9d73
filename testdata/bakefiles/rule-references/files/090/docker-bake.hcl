target "a" { tags=["1"] }
target "a" { labels={x=1} }
target "b" { labels=target.a.labels }
