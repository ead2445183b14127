module distrain.local/pause

go 1.26
