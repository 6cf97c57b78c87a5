find / -name trace-of-the-last 2>/dev/null | while read place; do echo "ESCAPED $place"; done
true
