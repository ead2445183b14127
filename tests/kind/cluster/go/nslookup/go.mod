module distrain.local/nslookup

go 1.26
