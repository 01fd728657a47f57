"""What a mask becomes: files of each kind, proved before they are released."""
