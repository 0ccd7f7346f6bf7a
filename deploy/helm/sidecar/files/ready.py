"""What `helm test` runs: each of READY_URLS answers 200, and FLEET (HOST:PORT) shows a certificate
of FLEET_CA (PEM) that is in force and names it. Exit 1 with what is wrong, everything at once."""

import os
import socket
import ssl
import sys
import urllib.request

wrong = []
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for url in os.environ["READY_URLS"].split():
    try:
        with opener.open(url, timeout=10) as answer:
            print(f"{url}: {answer.status}")
    except OSError as error:
        wrong.append(f"{url}: {error}")

host, _, port = os.environ["FLEET"].rpartition(":")
try:
    context = ssl.create_default_context(cafile=os.environ["FLEET_CA"])
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        print(f"{host}:{port}: {secure.version()}, {secure.getpeercert()['notAfter']}")
except OSError as error:
    wrong.append(f"{host}:{port}: {error}")

for each in wrong:
    print(each, file=sys.stderr)
sys.exit(bool(wrong))
