import signal
import socket
import sqlite3

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
server.accept()[0].send(b"x")
assert client.recv(1) == b"x"
left, right = socket.socketpair()
left.send(b"y")
assert right.recv(1) == b"y"
signal.setitimer(signal.ITIMER_REAL, 60)
database = sqlite3.connect("/tmp/cache.sqlite")
database.execute("create table t (x)")
database.commit()

with open("/output/submission.csv", "w") as file:
    file.write("filename,label\na.mp4,0.5\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
