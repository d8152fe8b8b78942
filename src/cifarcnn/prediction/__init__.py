"""What pictures show: pictures in, ranked classes out. Read ``prediction`` first."""
