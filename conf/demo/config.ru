# The demonstration's application in Ruby. In the directory of swiftiply's source, while `swiftiply --demo` runs:
#
#     thin start --swiftiply --address 127.0.0.1 --port 30000 -R conf/demo/config.ru
run lambda { |env|
  text = "hello from Ruby, process #{Process.pid}\n"
  [200, {"Content-Type" => "text/plain", "Content-Length" => text.bytesize.to_s}, [text]]
}
