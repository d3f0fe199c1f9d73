target "a" { labels={x=1} }
target "a" { tags=["1"] }
target "b" { args=target.a.labels }
