"""A finished run as an object to look at and to take along: turntables and meshes."""
