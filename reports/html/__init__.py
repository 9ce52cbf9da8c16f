"""The HTML report: data for the templates, and the templates themselves.

- `render`: writes report.html, and the pages of `diff` and `replay`.
- `page` and `page_*`: the report from top to bottom, one module for each group of sections.
- `cards`: descriptions of one cause of failure each, on its smallest batch.
- `pictures`: an image's assignment as a drawing.
- `explanations`: the reasons for an anchor's assignment, in words.
- `walkthrough`: the values of every stage of the assigner on one photograph.
- `differences`: the page that `tal-conformance diff` writes.
"""
