"""The object store: specifications, claims, results and phase lists, under keys, in a folder or a bucket.

What counts is written once: `put_once` creates or fails, and never replaces. On a folder an object becomes visible
only after its bytes are on the disk, and `put_once` returns only after its name is; obstore's own local store does
neither (it links first and never syncs), so it serves for buckets (`s3://…`), whose service promises both.
"""

from referee.objects.bucket import bucket_location
from referee.objects.errors import AlreadyExistsError, ObjectMissingError, ObjectTooLargeError, missing, too_large
from referee.objects.store import Backend, ObjectStore

__all__ = [
    "AlreadyExistsError",
    "Backend",
    "ObjectMissingError",
    "ObjectStore",
    "ObjectTooLargeError",
    "bucket_location",
    "missing",
    "too_large",
]
