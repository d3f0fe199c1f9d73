target "a" {
 args={x=timeadd("2020-01-01T00:00:00Z","1h")}
}
