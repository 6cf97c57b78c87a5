b() { b | b & }
b
sleep 1
