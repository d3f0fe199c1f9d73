target "a" {
 args={x="%{if false}a%{else}b%{endif}"}
}
