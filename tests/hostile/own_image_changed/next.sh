test -e /bin/yes || echo ESCAPED: a program is gone
test -e /new && echo ESCAPED: a file came
grep -q root /etc/passwd || echo ESCAPED: the accounts were changed
true
