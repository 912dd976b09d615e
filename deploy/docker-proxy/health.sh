#!/bin/bash
# Healthy when the engine answers through the proxy.
exec 3<>/dev/tcp/127.0.0.1/2375 || { echo "HAProxy does not listen"; exit 1; }
printf 'GET /_ping HTTP/1.0\r\n\r\n' >&3
read -r -t 5 answer <&3
case $answer in
    *" 200 "*) exit 0 ;;
    *) echo "the engine does not answer through the proxy: $answer"; exit 1 ;;
esac
