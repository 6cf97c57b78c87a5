for place in / /bin /etc /usr/lib /attacks; do touch $place/new && echo ESCAPED $place; done
rm /bin/yes && echo ESCAPED
echo tried
