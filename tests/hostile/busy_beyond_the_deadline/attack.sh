trap '' TERM INT HUP QUIT
(setsid sh -c 'trap "" TERM; while :; do :; done' &)
while :; do :; done
