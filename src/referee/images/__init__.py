"""Images: fetched through skopeo, checked as streams, stored by digest, unpacked by layer on a node."""
