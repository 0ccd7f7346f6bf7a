# Applies the documents of the chart's values once the control plane is there, and again when they
# change; the volume follows its ConfigMap within a minute or two. What is already published makes no
# new release. Ends at SIGTERM.
documents=${DOCUMENTS:-/etc/sidecar/documents}
server=${SERVER:-127.0.0.1:7443}
pause=${PAUSE:-15}
trap 'exit 0' TERM INT
published=
while :; do
  # All of them, with their names: sums of files alone would miss that one was renamed.
  found=$(cd "$documents" && cksum -- *)
  if [ "$found" != "$published" ] && sidecar apply -f "$documents" --server "$server"; then
    published=$found
  fi
  sleep "$pause" &
  wait $!
done
