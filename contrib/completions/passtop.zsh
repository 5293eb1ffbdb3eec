#compdef passtop

autoload -U is-at-least

_passtop() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'*-i+[Time between two looks, default 1]: :' \
'*--interval=[Time between two looks, default 1]: :' \
'*-1[Print everything once, after one interval, and quit]' \
'*--once[Print everything once, after one interval, and quit]' \
'*-j[Print it as JSON; implies --once]' \
'*--json[Print it as JSON; implies --once]' \
'*-h[Print this text]' \
'*--help[Print this text]' \
'*--version[Print name and version]' \
'::operand:_files' \
&& ret=0
}

(( $+functions[_passtop_commands] )) ||
_passtop_commands() {
    local commands; commands=()
    _describe -t commands 'passtop commands' commands "$@"
}

if [ "$funcstack[1]" = "_passtop" ]; then
    _passtop "$@"
else
    compdef _passtop passtop
fi
