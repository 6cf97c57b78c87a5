import ctypes
import mmap
import os

code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x2a\0\0\0\xc3" if os.uname().machine == "x86_64" else b"\x40\x05\x80\x52\xc0\x03\x5f\xd6")
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42

with open("/output/submission.csv", "w") as file:
    file.write("filename,label\na.mp4,0.5\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
