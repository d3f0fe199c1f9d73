target "b" { args=target.a.labels }
target "a" { labels={x=1} }
target "a" { tags=["1"] }
