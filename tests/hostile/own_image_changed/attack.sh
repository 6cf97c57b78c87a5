rm /bin/yes; echo changed > /etc/passwd; chmod 777 /bin; touch /new && echo written
echo tried
