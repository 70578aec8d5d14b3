from convnet_edge.__main__ import main

main()
