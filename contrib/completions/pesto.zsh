#compdef pesto

autoload -U is-at-least

_pesto() {
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
'*-C+[Delete all rules of an interface\: HOST or SPLICE]: :' \
'*--clear=[Delete all rules of an interface\: HOST or SPLICE]: :' \
'*-t+[TCP ports of the host, for the guest]: :' \
'*--tcp-ports=[TCP ports of the host, for the guest]: :' \
'*-u+[UDP ports of the host, for the guest]: :' \
'*--udp-ports=[UDP ports of the host, for the guest]: :' \
'*-T+[TCP ports of the namespace, for the host]: :' \
'*--tcp-ns=[TCP ports of the namespace, for the host]: :' \
'*-U+[UDP ports of the namespace, for the host]: :' \
'*--udp-ns=[UDP ports of the namespace, for the host]: :' \
'*--metrics-listen=[Serve them by HTTP at /metrics; ADDR is loopback by default]: :' \
'*--capture=[Record frames in FILE until interrupted; - is standard output, unless that is a terminal]: :_files' \
'*--request=[Send a request of docs/control.md, print its answer]: :' \
'*-A[Add what the following specifiers say]' \
'*--add[Add what the following specifiers say]' \
'*-D[Delete what the following specifiers say]' \
'*--delete[Delete what the following specifiers say]' \
'*-s[Show rules before and after]' \
'*--show[Show rules before and after]' \
'*-d[Say more]' \
'*--debug[Say more]' \
'*-h[Print this text]' \
'*--help[Print this text]' \
'*--version[Print name and version]' \
'*--metrics[Print counters in the text format of Prometheus]' \
'*--events[Print events as they come, a line of JSON each]' \
'::operand:_files' \
&& ret=0
}

(( $+functions[_pesto_commands] )) ||
_pesto_commands() {
    local commands; commands=()
    _describe -t commands 'pesto commands' commands "$@"
}

if [ "$funcstack[1]" = "_pesto" ]; then
    _pesto "$@"
else
    compdef _pesto pesto
fi
