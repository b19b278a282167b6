"""What jobs made, brought to people: pictures through the Director, thumbnails, zips, workflows in
PNGs.
"""
