i=0; while [ $i -lt 20 ]; do touch /output/$i; i=$((i+1)); done
cd /output; i=0; while [ $i -lt 200 ] && mkdir d && cd d; do i=$((i+1)); done
true
