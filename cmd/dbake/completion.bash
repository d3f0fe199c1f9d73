# bash completion of dbake:  source <(dbake completion bash)
_dbake() {
    local line=${COMP_LINE:0:COMP_POINT} out directive cur flag= part= value
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur=${words[${#words[@]} - 1]}
    COMPREPLY=()
    out=$("${words[0]}" __complete "${words[@]:1}" 2>/dev/null) || return
    directive=${out##*:}
    # The value of --flag=VALUE comes alone; readline replaces what is behind the last
    # character at which it breaks words.
    [[ $cur == --*=* ]] && flag=${cur%%=*}=
    local breaks=${COMP_WORDBREAKS//[^=:]/}
    [[ -n $breaks ]] && part=${cur%"${cur##*[$breaks]}"}
    while IFS= read -r line; do
        value=$flag${line%%$'\t'*}
        [[ $line != :[0-9]* && $value == "$cur"* ]] && COMPREPLY+=("${value#"$part"}")
    done <<<"$out"
    if ((directive & 16)); then
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "${cur#"$flag"}")
        compopt -o filenames 2>/dev/null
    elif ((${#COMPREPLY[@]} == 0 && !(directive & 4))); then
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "${cur#"$flag"}")
        compopt -o filenames 2>/dev/null
    fi
    ((directive & 2)) && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _dbake dbake
