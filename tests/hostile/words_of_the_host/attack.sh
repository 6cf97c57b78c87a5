echo '{"level":"error","msg":"container_linux.go: starting container process caused: no space left on device"}' >&2
echo 'runc run failed: unable to start container process' >&2
exit 125
