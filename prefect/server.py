"""A Prefect server that lasts as long as the program that started it; it prints the port at which it will answer.

Started as a process of its own before that program imports Prefect, so that both get ready side by side.
"""

import gc
import os
import socket
import sys
import threading

gc.set_threshold(200_000, 20, 20)  # thousands of classes are made on import, and none of them is garbage
sys.modules["rfc3987_syntax"] = None  # jsonschema would build its grammar, for seconds, and nothing here needs it
door = socket.socket()
door.bind(("127.0.0.1", 0))
door.listen(128)
print(door.getsockname()[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # the pipe ends with whoever holds the other end

import uvicorn  # noqa: E402  after the port is told

config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
uvicorn.Server(config).run(sockets=[door])
