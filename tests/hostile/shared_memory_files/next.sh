cat /dev/shm/meet-me && echo ESCAPED
true
