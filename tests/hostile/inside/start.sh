# Becomes the program of the attack that the contract's environment names.
folder=/attacks/$ATTACK
if [ -f $folder/$ROLE.sh ]; then exec /bin/sh $folder/$ROLE.sh; fi
exec /usr/bin/python3 -B -S -s $folder/$ROLE.py
