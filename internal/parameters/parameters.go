// Package parameters reads the parameters of a broker's URL.
package parameters

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Parameter is a parameter that a URL may have, at most once.
type Parameter struct {
	Name string
	Set  func(value string) error
}

// Text is a parameter whose value is kept unchanged.
func Text(name string, into *string) Parameter {
	return Parameter{name, func(value string) error {
		*into = value
		return nil
	}}
}

// TLS is the parameter tls, true or false. true makes connections use TLS 1.2 or later.
func TLS(into **tls.Config) Parameter {
	return Parameter{"tls", func(value string) error {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("parameter tls %q: want true or false", value)
		}
		if on {
			*into = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		return nil
	}}
}

// CheckUser reports a URL that seems to have a user for each of several hosts, or a
// host before the user: everything up to the last @ would be the name and password of
// one user. The error quotes no part of the URL.
func CheckUser(rawURL string) error {
	_, rest, _ := strings.Cut(rawURL, "://")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return nil
	}
	name, password, _ := strings.Cut(rest[:at], ":")
	port, next, list := strings.Cut(password, ",") // where the name is a host
	hostFirst := list && port != "" && strings.Trim(port, "0123456789") == "" && strings.Contains(next, ":")
	_, second, twice := strings.Cut(rest[:at], "@")
	if hostFirst || strings.Contains(name, ",") || twice && strings.Contains(second, ",") {
		return errors.New("names a user after a comma: name the user once, before the first host, such as user:password@host1,host2; in a name or a password, write a comma as %2C and an @ as %40")
	}
	return nil
}

// CheckPassword is for a URL whose text is not known. It reports a password that is the
// rest of a list of hosts with a user each: pw@host1,user:pw.
func CheckPassword(user *url.Userinfo) error {
	password, _ := user.Password()
	if _, rest, found := strings.Cut(password, "@"); found && strings.Contains(rest, ","+user.Username()+":") {
		return errors.New("it names a user for each of several hosts: name the user once, before the first host, such as user:password@host1,host2")
	}
	return nil
}

// Parse sets the known parameters from a URL's query. An unknown or repeated parameter
// is an error.
func Parse(query string, known ...Parameter) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the parameters are no query: want name=value&name=value")
	}
	var names []string
	for _, p := range known {
		names = append(names, p.Name)
		given := values[p.Name]
		delete(values, p.Name)
		if len(given) > 1 {
			return fmt.Errorf("parameter %q is given %d times: want it once", p.Name, len(given))
		}
		if len(given) == 1 && given[0] != "" {
			if err := p.Set(given[0]); err != nil {
				return err
			}
		}
	}
	for name := range values {
		if strings.Contains(query, "@") || strings.Contains(query, "%40") {
			// The query may be the rest of a password with a question mark.
			return fmt.Errorf("a parameter is not one of %s; in a password, a question mark is written %%3F", strings.Join(names, ", "))
		}
		return fmt.Errorf("parameter %q: want one of %s", name, strings.Join(names, ", "))
	}
	return nil
}
