complete -c pesto -s C -l clear -d 'Delete all rules of an interface: HOST or SPLICE' -r -f
complete -c pesto -s t -l tcp-ports -d 'TCP ports of the host, for the guest' -r -f
complete -c pesto -s u -l udp-ports -d 'UDP ports of the host, for the guest' -r -f
complete -c pesto -s T -l tcp-ns -d 'TCP ports of the namespace, for the host' -r -f
complete -c pesto -s U -l udp-ns -d 'UDP ports of the namespace, for the host' -r -f
complete -c pesto -l metrics-listen -d 'Serve them by HTTP at /metrics; ADDR is loopback by default' -r -f
complete -c pesto -l capture -d 'Record frames in FILE until interrupted; - is standard output, unless that is a terminal' -r -F
complete -c pesto -l request -d 'Send a request of docs/control.md, print its answer' -r -f
complete -c pesto -s A -l add -d 'Add what the following specifiers say'
complete -c pesto -s D -l delete -d 'Delete what the following specifiers say'
complete -c pesto -s s -l show -d 'Show rules before and after'
complete -c pesto -s d -l debug -d 'Say more'
complete -c pesto -s h -l help -d 'Print this text'
complete -c pesto -l version -d 'Print name and version'
complete -c pesto -l metrics -d 'Print counters in the text format of Prometheus'
complete -c pesto -l events -d 'Print events as they come, a line of JSON each'
