# fish completion of dbake:  dbake completion fish | source
function __dbake_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l out ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    or return
    set -l directive (string replace -r '^:' '' -- $out[-1])
    set -l flag (string match -r -- '^--[^=]*=' "$current")
    set -e out[-1]
    if test (math "bitand($directive, 16)") -ne 0
        __fish_complete_directories (string replace -r -- '^--[^=]*=' '' "$current") | string replace -r '^' -- "$flag"
    else if test (count $out) -gt 0
        for line in $out
            printf "%s\n" "$flag$line"
        end
    else if test (math "bitand($directive, 4)") -eq 0
        __fish_complete_path (string replace -r -- '^--[^=]*=' '' "$current") | string replace -r '^' -- "$flag"
    end
end
complete -c dbake -f -a '(__dbake_complete)'
