"""Inputs at URLs: objects in buckets and files on web servers, found, streamed, and read in ranges."""
