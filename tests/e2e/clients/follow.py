"""Follows a lock as a Python program would, with python-socketio and its usual options.

    follow.py URL TRANSPORTS ID USER

TRANSPORTS is `default`, `polling` or `websocket`; USER is the JSON of the handshake. Tells what it hears, as a line of
JSON each, and acquires the lock when it reads the line `acquire`. Nothing in here waits for anything but the library.
"""

import json
import sys
import threading
import urllib.parse

import requests
import socketio

url, transports, appointment, user = sys.argv[1:]
user = json.loads(user)
sio = socketio.Client()
speaking = threading.Lock()


def tell(event, payload=None):
    with speaking:
        print(json.dumps({"event": event, "payload": payload}), flush=True)


@sio.event
def connect():
    tell("connect", {"transport": sio.transport()})
    sio.emit("subscribe", appointment, callback=lambda ack: tell("(subscribed)", ack))


@sio.event
def disconnect(reason):
    tell("disconnect", reason)


@sio.event
def connect_error(error):
    tell("connect_error", str(error))


@sio.on("*")
def anything(event, payload):
    tell(event, payload)


sio.connect(url, auth=user, **({} if transports == "default" else {"transports": [transports]}))
for line in sys.stdin:
    if line.strip() == "acquire":
        path = f"/api/appointments/{urllib.parse.quote(appointment, safe='')}/acquire-lock"
        answer = requests.post(url + path, json=user, timeout=10)
        tell("(acquired)", answer.json())
