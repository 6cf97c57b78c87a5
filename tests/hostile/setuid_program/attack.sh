id
[ "$(/usr/bin/id-rooted -u)" = 0 ] && echo ESCAPED
true
