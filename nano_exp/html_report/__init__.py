"""`nano-exp report`: the results of a sweep as one HTML file that opens without a network.

document.py makes a plain document (what JSON can hold) from Results; page.py packs it, with Plotly and the page's own
style and script (page.html, page.css, page.js), into one file. The browser draws; nothing of the runs is ever HTML.
"""
