complete -c passtop -s i -l interval -d 'Time between two looks, default 1' -r -f
complete -c passtop -s 1 -l once -d 'Print everything once, after one interval, and quit'
complete -c passtop -s j -l json -d 'Print it as JSON; implies --once'
complete -c passtop -s h -l help -d 'Print this text'
complete -c passtop -l version -d 'Print name and version'
