#compdef dbake
# zsh completion of dbake:  source <(dbake completion zsh)
_dbake() {
    local out directive line value
    local -a lines values options
    out=$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null) || return 1
    lines=("${(@f)out}")
    directive=${lines[-1]#:}
    for line in "${(@)lines[1,-2]}"; do
        value=${line%%$'\t'*}
        value=${value//:/\\:}
        [[ $line == *$'\t'* ]] && value+=":${line#*$'\t'}"
        values+=("$value")
    done
    (( directive & 2 )) && options=(-S '')
    compset -P '--*='
    if (( directive & 16 )); then
        _files -/
    elif (( $#values )); then
        _describe -V dbake values "${options[@]}"
    elif (( ! (directive & 4) )); then
        _files
    fi
}
if [[ $funcstack[1] == _dbake ]]; then
    _dbake "$@"
else
    compdef _dbake dbake
fi
