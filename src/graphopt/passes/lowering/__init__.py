"""What a runtime's parser needs to see said, or does not know, in a form that it takes."""
